"""Training within a budget inside of other trainers, each in a file that imports that trainer."""
