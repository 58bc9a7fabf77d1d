"""How a landing record is judged: the gate, the policy it goes by, and what a merge brings with it."""
