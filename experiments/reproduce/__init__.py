"""The paper's tables and figures, one file each: what is run, how it is tabulated, which claims are put to the test."""
