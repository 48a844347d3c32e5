"""Files into a real Kafka: every line once, as it stands, in order, where its port belongs; through outages and stops."""
