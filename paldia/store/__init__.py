"""State that outlives a controller: one protocol, two stores."""
