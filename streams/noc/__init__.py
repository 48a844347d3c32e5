"""What the NOC sees: alerts in Alertmanager."""
