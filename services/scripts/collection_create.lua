-- Make an empty collection, if its owner has none of that name and not too many.
-- ARGV: id, owner, name, digest of no pictures, ttl s, most collections of the owner
-- Returns 'ok', 'taken' or 'quota'.
local id, index, ttl_s = ARGV[1], COLLECTIONS .. ARGV[2], tonumber(ARGV[5])
local known = redis.call('HGET', index, ARGV[3])
-- asked again, because the answer was lost
if known == id then return 'ok' end
if known and redis.call('EXISTS', COLLECTION .. known) == 1 then return 'taken' end
local all = redis.call('HGETALL', index)
for i = 1, #all, 2 do
  if redis.call('EXISTS', COLLECTION .. all[i + 1]) == 0 then redis.call('HDEL', index, all[i]) end
end
if redis.call('HLEN', index) >= tonumber(ARGV[6]) then return 'quota' end
redis.call('HSET', COLLECTION .. id, 'id', id, 'owner', ARGV[2], 'name', ARGV[3], 'created_ms', now(),
  'digest', ARGV[4], 'count', 0, 'size', 0, 'manifest', '')
redis.call('HSET', index, ARGV[3], id)
keep_collection(id, ttl_s)
return 'ok'
