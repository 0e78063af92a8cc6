"""Tests that run in a guest, on a kernel that has the controllers: ``../test_inside.py`` says which on which."""
