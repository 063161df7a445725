"""Many processes, one behaviour: they exchange what they learn, may send and have spent, in the background."""
