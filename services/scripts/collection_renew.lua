-- Let a collection end a whole time from now.
-- ARGV: id, ttl s
-- Returns 1, or 0 if there is none.
go_on_without_memory()
if redis.call('EXISTS', COLLECTION .. ARGV[1]) == 0 then return 0 end
keep_collection(ARGV[1], tonumber(ARGV[2]))
return 1
