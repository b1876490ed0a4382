"""How sure and how soon events are told: false ones in a day of quiet noise, real ones in the lab."""
