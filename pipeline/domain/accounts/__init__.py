"""What can be proved afterwards: books, audit chains and their checkpoints, evidence, budgets."""
