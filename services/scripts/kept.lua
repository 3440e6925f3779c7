-- Count the bytes that are kept of an owner.
-- ARGV: owner
go_on_without_memory()
return kept(ARGV[1], now())
