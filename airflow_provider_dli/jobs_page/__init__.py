"""
The page *DLI jobs* in Airflow's UI (Airflow 3.1 or newer): the jobs of a connection, whose they are, and a button that
cancels one.

``plugin.py`` is what every Airflow process imports, ``app.py`` what the api-server does when somebody opens the page.
``lists.py`` reads DLI's lists, ``rows.py`` says what of them a user sees, ``access.py`` what a user may do,
``cancel.py`` cancels. ``static/`` is what the browser gets.
"""
