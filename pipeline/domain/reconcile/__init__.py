"""What we hold beside what a system shows; and what is sent again."""
