"""What passing requests on costs: PALDIA, plain proxies and other servers with the same model."""
