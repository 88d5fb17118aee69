"""Who belongs to a tenant: members and their roles, invitations, leaving, and the end of a tenant."""
