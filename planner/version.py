"""Version of the package, written into every layout file."""

VERSION = "0.1.0"
