-- Note bytes that are to be kept for an owner, if they fit what may be kept of one.
-- ARGV: owner, name, bytes, most bytes or 0 for any number, ttl s
-- Returns {1 or 0, the bytes that were kept before}.
local owner, name, bytes, most = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local at = now()
local before = kept(owner, at)
local more = bytes - (redis.call('HGET', KEPT .. owner, name) or 0)
if most > 0 and more > 0 and before + more > most then return {0, before} end
keep(owner, name, bytes, tonumber(ARGV[5]), at)
return {1, before}
