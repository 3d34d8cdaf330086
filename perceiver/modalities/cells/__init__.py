"""Content of the cells of tables: missing values, classes and categories, numbers and dates as text. Without torch."""
