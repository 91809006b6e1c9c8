"""The paper's study: what is trained, how runs become tables, and how they look."""
