"""
Everything between a call as a value and the wire: connection, credentials, retries, cancels, lists. No Airflow here.

``client.py`` is what others use; ``exchange.py`` sends one request, over ``transport.py``; ``credentials.py`` and
``signing.py`` make it authentic; ``cancelling.py`` carries a cancel through; ``patience.py`` says how long all this is
tried.
"""
