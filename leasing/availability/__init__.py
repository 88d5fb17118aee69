"""What is free and busy of a GPU pool over a window, as one person may see it."""
