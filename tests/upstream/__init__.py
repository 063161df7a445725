"""Facts of the libraries below us, pinned by name, so that an upgrade which changes one says so here first."""
