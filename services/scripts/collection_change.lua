-- Give a collection other pictures, unless somebody else has done so since they were read.
-- ARGV: id, manifest that was read, new manifest, digest, count, size, ttl s
-- Returns 'ok', 'again' or 'gone'.
local key = COLLECTION .. ARGV[1]
local manifest = redis.call('HGET', key, 'manifest')
if not manifest then return 'gone' end
-- asked again, because the answer was lost
if manifest == ARGV[3] then return 'ok' end
if manifest ~= ARGV[2] then return 'again' end
redis.call('HSET', key, 'manifest', ARGV[3], 'digest', ARGV[4], 'count', ARGV[5], 'size', ARGV[6])
keep_collection(ARGV[1], tonumber(ARGV[7]))
return 'ok'
