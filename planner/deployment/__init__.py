"""Between layouts and what engines can be told: rules, rank orders, assembling, comparing."""
