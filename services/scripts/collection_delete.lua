-- Forget a collection and free its name.
-- ARGV: id
-- Returns the manifest it had, or nothing if there was none.
go_on_without_memory()
local key = COLLECTION .. ARGV[1]
local owner = redis.call('HGET', key, 'owner')
if not owner then return nil end
local name, manifest = redis.call('HGET', key, 'name'), redis.call('HGET', key, 'manifest')
if redis.call('HGET', COLLECTIONS .. owner, name) == ARGV[1] then
  redis.call('HDEL', COLLECTIONS .. owner, name)
end
redis.call('DEL', key)
return manifest
