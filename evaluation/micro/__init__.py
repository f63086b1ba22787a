"""The micro world: a small universe of questions with known answers, for laptops and for tests."""
