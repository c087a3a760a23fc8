"""What people read: tables on a terminal, aligned plain text in a pipe."""
