"""What a team does with a run: its registry, gate, card, synchronisation and check-up."""
