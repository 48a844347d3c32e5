"""Who is this message from, and may it say so on this port? `extract` reads the name, `detector` judges it."""
