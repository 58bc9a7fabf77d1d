"""The only room that knows Faust: its app, its agents, its tables, and the patches that make it lose nothing."""
