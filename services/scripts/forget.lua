-- Count some of an owner's bytes no more.
-- ARGV: owner, names...
go_on_without_memory()
for place = 2, #ARGV do forget(ARGV[1], ARGV[place]) end
