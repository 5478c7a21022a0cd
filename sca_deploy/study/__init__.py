"""Studies: comparing arms over seeds, and looking into trained networks."""
