"""Files that leave the package: the layout file, its schema, and how it is written safely."""
