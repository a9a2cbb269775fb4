"""Use cases of the keeper, without a screen: shared by the command line and the terminal screens."""
