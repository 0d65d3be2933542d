"""`vitals store`: export, verify and prune the store, and show what was refused."""
