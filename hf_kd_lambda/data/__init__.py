"""Examples: load, check, tokenise and collate them. May import utils and losses."""
