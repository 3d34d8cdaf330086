"""Published weights of other libraries, in and out; each file needs the extra that it names."""
