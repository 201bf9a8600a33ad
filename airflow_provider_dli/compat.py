"""What differs between Airflow versions, and does not come from ``airflow.providers.common.compat.sdk``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def connection_form(connection_type: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the widgets of a connection form, for Airflow before 3.2.

    :param connection_type: An entry of ``connection-types`` of the provider info, which newer ones read themselves.
    """
    from flask_appbuilder.fieldwidgets import BS3PasswordFieldWidget, BS3TextFieldWidget
    from wtforms import PasswordField, StringField
    from wtforms.validators import Optional

    widgets = {}
    for name, field in connection_type["conn-fields"].items():
        schema, description = field["schema"], field["description"]
        secret = schema.get("format") == "password"
        if "enum" in schema:
            # There is no choice to click on: say what to write.
            choices = [f"{value}: {schema['values_display'][value]}" for value in schema["enum"]]
            description = " ".join([description, *(f"{choice}." for choice in choices)])
        widgets[name] = (PasswordField if secret else StringField)(
            field["label"],
            widget=(BS3PasswordFieldWidget if secret else BS3TextFieldWidget)(),
            description=description,
            validators=[Optional()],
        )
    return widgets


def connection_form_behaviour(connection_type: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the form shows of Airflow's own fields, and how, for Airflow before 3.2."""
    behaviour = connection_type["ui-field-behaviour"]
    return {
        "hidden_fields": behaviour["hidden-fields"],
        "relabeling": behaviour["relabeling"],
        "placeholders": behaviour["placeholders"],
    }
