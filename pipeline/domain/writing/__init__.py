"""What is written next to one destination, and how fast: pending, scheduler, turns, pace, modes."""
