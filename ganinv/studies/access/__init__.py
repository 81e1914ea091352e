"""The ladder of access: what an attacker with this access gets after how many queries."""
