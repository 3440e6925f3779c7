-- Count the bytes that are kept of an owner.
-- ARGV: owner
-- Returns {bytes, how many names they have}.
go_on_without_memory()
local bytes = kept(ARGV[1], now())
return {bytes, redis.call('ZCARD', KEPT .. ARGV[1] .. ':ends')}
