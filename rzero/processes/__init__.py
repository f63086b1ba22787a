"""The processes of a run: which one this is, how the others start, what ends with what, and the CPU they run on."""
