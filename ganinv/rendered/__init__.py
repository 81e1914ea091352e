"""People who do not exist: their factors, and the renderer that photographs them."""
