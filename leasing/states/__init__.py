"""The two lifecycles as literal tables (DESIGN §3). Pure: no database, no clock."""
