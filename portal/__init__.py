"""Project configuration and everything HTTP; no business rule lives here."""
