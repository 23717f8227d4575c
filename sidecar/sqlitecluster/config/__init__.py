"""Configuration of one node: the values, their defaults, and reading them from YAML."""
