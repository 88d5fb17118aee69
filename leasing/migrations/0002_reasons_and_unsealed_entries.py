"""Reasons are stored as codes; entries that wait to be sealed are rows of their own."""

import django.db.models.deletion
from django.db import migrations, models

import leasing.reasons

# Texts in whatever language was active cannot be turned into codes.
FORGET = "UPDATE leasing_lease SET needs_approval_because = '', outcome_reason = '', waiting_because = ''"
WAIT = """
    INSERT INTO leasing_unsealedentry (entry_id) SELECT id FROM leasing_auditentry entry
    WHERE NOT EXISTS (SELECT 1 FROM leasing_auditleaf leaf WHERE leaf.entry_id = entry.id)
"""


class Migration(migrations.Migration):
    dependencies = [
        ("leasing", "0001_initial"),
    ]

    operations = [
        migrations.CreateModel(
            name="UnsealedEntry",
            fields=[
                (
                    "entry",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        primary_key=True,
                        related_name="unsealed",
                        serialize=False,
                        to="leasing.auditentry",
                    ),
                ),
            ],
        ),
        migrations.AlterField(
            model_name="lease",
            name="needs_approval_because",
            field=leasing.reasons.ReasonField(),
        ),
        migrations.AlterField(
            model_name="lease",
            name="outcome_reason",
            field=leasing.reasons.ReasonField(),
        ),
        migrations.AlterField(
            model_name="lease",
            name="waiting_because",
            field=leasing.reasons.ReasonField(),
        ),
        migrations.AddIndex(
            model_name="treehead",
            index=models.Index(
                condition=models.Q(("anchored_at__isnull", True)),
                fields=["size"],
                name="leasing_treehead_to_anchor",
            ),
        ),
        migrations.RunSQL(FORGET, migrations.RunSQL.noop),
        migrations.RunSQL(WAIT, migrations.RunSQL.noop),
    ]
