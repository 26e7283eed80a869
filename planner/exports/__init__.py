"""From a schedule to what other trainers take: one file for each form, and what the coarser form costs."""
