"""Foreign weights in, other formats out; imported only on demand."""
