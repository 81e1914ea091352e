"""The method: from a prior and a target to pictures. No judge is seen here."""
