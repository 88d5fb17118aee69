"""Hosts are found by the id of their signing key."""

from django.apps.registry import Apps
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from hosts.protocol.signing import key_id, verify_key


def fill(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    for host in apps.get_model("hosts", "Host").objects.all():
        host.key_id = key_id(verify_key(host.signing_key))
        host.save(update_fields=["key_id"])


class Migration(migrations.Migration):
    dependencies = [("hosts", "0001_initial")]

    operations = [
        migrations.AddField(
            model_name="host",
            name="key_id",
            field=models.CharField(editable=False, help_text="Of signing_key", max_length=16, null=True),
        ),
        migrations.RunPython(fill, migrations.RunPython.noop),
        migrations.AlterField(
            model_name="host",
            name="key_id",
            field=models.CharField(editable=False, help_text="Of signing_key", max_length=16, unique=True),
        ),
    ]
