"""The root side: permit table, plans, sessions, children, proofs. Nobody imports this room but the composition root."""
