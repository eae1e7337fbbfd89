"""What every process of a run makes sure of before it trains, together with the others."""
