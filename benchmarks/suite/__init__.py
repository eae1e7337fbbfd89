"""What is measured: for each benchmark the contenders and what each of them runs."""
