-- Note bytes that are to be kept for an owner, if they fit what may be kept of one.
-- ARGV: owner, name, bytes, most bytes and most names or 0 for any number, ttl s
-- Returns {1 or 0, the bytes that were kept before, how many names they had}.
local owner, name, bytes = ARGV[1], ARGV[2], tonumber(ARGV[3])
local most, most_names = tonumber(ARGV[4]), tonumber(ARGV[5])
local at = now()
local before = kept(owner, at)
local names = redis.call('ZCARD', KEPT .. owner .. ':ends')
local old = redis.call('HGET', KEPT .. owner, name)
local more = bytes - (old or 0)
if most > 0 and more > 0 and before + more > most then return {0, before, names} end
if most_names > 0 and not old and names >= most_names then return {0, before, names} end
keep(owner, name, bytes, tonumber(ARGV[6]), at)
return {1, before, names}
